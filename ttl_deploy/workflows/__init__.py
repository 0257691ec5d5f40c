"""What a user asks for that joins several rooms: prediction, benchmarking beside references, the quickstart."""
