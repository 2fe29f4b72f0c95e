"""What a person sees: units, tables, figures, and the console."""
