"""An HTTP server of models with OpenAI's API: `groundup serve`."""
