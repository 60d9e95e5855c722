"""What a run comes to: figures, verdict, pictures, files. Knows no locust and no HTTP."""
