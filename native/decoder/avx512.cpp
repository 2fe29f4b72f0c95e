#define WIDTH 16
#define NAME kAvx512
#include "kernels.inc"
