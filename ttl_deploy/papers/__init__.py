"""What the papers say of their trainings: protocols by name, printed accuracies, and a run beside them."""
