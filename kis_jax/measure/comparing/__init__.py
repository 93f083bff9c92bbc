"""Finished scans, of one model or several, against the paper's claims and each other."""
