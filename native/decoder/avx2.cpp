#define WIDTH 8
#define NAME kAvx2
#include "kernels.inc"
