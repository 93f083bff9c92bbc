"""`kis tune` and `kis settings`: where and how strongly to edit a model."""
