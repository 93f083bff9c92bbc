"""Facts, corpora and tokens: from files and hub names to arrays with masks."""
