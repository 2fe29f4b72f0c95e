"""The operating system: files, processes, threads and launches."""
