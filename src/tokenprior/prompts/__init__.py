"""What is asked of the learning model. Each module is one question: its words, its schema and how its data is shown."""
