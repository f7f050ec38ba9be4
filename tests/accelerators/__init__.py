"""What the compilers for TPU and GPU make of the library; nothing runs there. They come with the extra `accelerators`."""
