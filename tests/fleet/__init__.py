"""The fleet's long runs, and what came of them: `results` keeps what the commands printed, as they printed it."""
