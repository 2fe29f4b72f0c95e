#define WIDTH 16
#define NAME kAvx512Kernels
#define LABEL "avx512"
#include "kernels.inc"
