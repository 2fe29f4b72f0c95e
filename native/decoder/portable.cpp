#define WIDTH 4
#define NAME kPortable
#include "kernels.inc"
