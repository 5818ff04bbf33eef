"""Running a profile's steps: who has a run's folder, what a run costs, and its steps on many workers."""
