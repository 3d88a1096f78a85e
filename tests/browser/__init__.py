"""What a person meets: the real pages of a real server in a real Chromium."""
