# requires: transformers==4.48.3 sentencepiece protobuf gguf numpy
"""`saved_folders` with the last transformers before 5 that POLAR's own code is for."""

import saved_folders

if __name__ == "__main__":
    saved_folders.main()
