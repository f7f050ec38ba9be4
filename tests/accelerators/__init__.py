"""What compilers for TPU and GPU make of the library; nothing runs there. The extra `accelerators` brings them."""
