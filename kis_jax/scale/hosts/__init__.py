"""Many hosts and devices: how they meet, share a pass, and notice that one is gone."""
