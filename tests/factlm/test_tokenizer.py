from transformers import AutoTokenizer

from kis_jax.factlm.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, save_tokenizer, train_tokenizer

TEXTS = ["Vera Holm plays the harp.", "Olin Holm plays the lute.", "Vera Varga plays the harp."] * 5


def test_it_is_read_back_as_a_fast_tokenizer(tmp_path):
    trained = train_tokenizer(TEXTS, vocab_size=300)
    save_tokenizer(trained, tmp_path, context_length=32)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast
    assert loaded.model_max_length == 32
    assert (loaded.eos_token, loaded.eos_token_id) == (END_OF_TEXT, END_OF_TEXT_ID)
    for text in ("Vera Holm plays", "Zoë, 12 ☂"):
        assert loaded(text)["input_ids"] == trained.encode(text).ids
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_offsets_leave_out_the_space_before_a_word():
    encoding = train_tokenizer(TEXTS, vocab_size=300).encode("Vera Holm")
    start, end = encoding.offsets[-1]
    assert "Vera Holm"[start:end].strip() == "Vera Holm"[start:end]
    assert END_OF_TEXT_ID not in encoding.ids
