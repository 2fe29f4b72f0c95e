"""The HTML report page and its template."""
