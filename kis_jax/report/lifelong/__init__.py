"""The files and the page of a lifelong run, and figures of several."""
