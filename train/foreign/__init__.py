"""Other projects' files, read as data: names of tensors, configurations, and a pickle reader that runs nothing."""
