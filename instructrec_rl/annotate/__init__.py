"""Where people judge: a page or the terminal, the questions that teach most, and the guard before the door."""
