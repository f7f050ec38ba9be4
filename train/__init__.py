"""Programs that train flaxrnn's networks, and what they share."""
