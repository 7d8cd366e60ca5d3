"""What passes are made of and is no pass itself: their base class, counts, patterns and changes of weights."""
