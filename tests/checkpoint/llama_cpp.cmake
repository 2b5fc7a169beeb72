# Read by the build of llama-cpp-python (see the Makefile). It asks for a library of command-line arguments, chat formats
# and an HTTP client, which nothing here calls and which takes most of the time to compile; an ordinary variable wins over
# its cached one.
set(LLAMA_BUILD_COMMON OFF)
