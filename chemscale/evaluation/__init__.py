"""What finished cells are good for beyond their loss: the molecules that they draw, and what their vectors hold."""
