"""What should not train: cuts, stills and copies among the clips of a store; and the clips that look alike."""
