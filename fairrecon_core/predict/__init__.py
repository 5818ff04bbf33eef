"""What is read off an image: the frozen readers, image quality, and figures per patient."""
