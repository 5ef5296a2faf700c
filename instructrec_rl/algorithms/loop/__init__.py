"""What the algorithms' loops share: the record of a run, exploration, and the watch over the reward."""
