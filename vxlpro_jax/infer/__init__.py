"""From a video and a question to an answer: encoding, the index, generation."""
