"""`kis compare`: scans of several models side by side."""
