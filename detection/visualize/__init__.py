"""Pictures of what is in images beside what several runs predicted."""
