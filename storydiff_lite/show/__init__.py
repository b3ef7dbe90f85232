"""What the book shows: figures, and interactive ones."""
