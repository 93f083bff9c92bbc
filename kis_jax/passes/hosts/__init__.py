"""Many hosts: launchers, meeting, agreement, passes over a mesh."""
