"""Rules of editing, the editor and its ledger, interference and forecast."""
