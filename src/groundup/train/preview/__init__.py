"""What can be known about a run without making it, and measurements of one."""
