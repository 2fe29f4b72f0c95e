"""The verbs of the course and the published study: demo, stories, reproduce, experiment."""
