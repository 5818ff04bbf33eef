"""The papers: their printed numbers, their evaluation, and what each of its choices does."""
