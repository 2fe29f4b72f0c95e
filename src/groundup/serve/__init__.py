"""Pages and APIs in a browser: the lab, which shows runs, and the playground of a served model."""
