"""Editing at the layers of a model: the methods, each from facts to a ledger."""
