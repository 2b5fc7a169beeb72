// The binding library, compiled into the module.

#include "nb_combined.cpp"
