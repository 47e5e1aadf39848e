"""What differs by system, and by how a process was started: launchers, signals, streams."""
