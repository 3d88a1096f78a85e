"""What a process of the site is and counts, whatever it runs."""
