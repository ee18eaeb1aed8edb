# rw_kernels: the tables (kernels/*.c), the CPU ops compiled once per number type, and the CUDA ops.
#
# kernels/cpu/*.c name their functions with RW_CPU_NAME() (kernels/cpu/cpu.h), so that the fp32 and the
# fp64 form of one file live in one program. kernels/cuda_stub.c stands in for kernels/cuda where there is
# no CUDA compiler.

file(GLOB rw_kernel_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*.c)
file(GLOB rw_cpu_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cpu/*.c)
file(GLOB rw_cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)

# The compiler may use fused multiply-add, and need not set errno or keep floating-point traps. It may not
# reorder sums, drop NaN or change the sign of zero: the same build gives the same bits.
set(RW_KERNEL_FLAGS -fno-math-errno -fno-trapping-math -ffp-contract=fast)
if(CMAKE_C_COMPILER_ID MATCHES "Clang")
  list(APPEND RW_KERNEL_FLAGS -Wno-pass-failed) # sanitized loops are not vectorised, and need not be
endif()
if(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
  list(APPEND RW_KERNEL_FLAGS -O3)
elseif(RW_SANITIZERS)
  list(APPEND RW_KERNEL_FLAGS -O2) # gradient checks by finite differences take long enough
endif()

set(rw_kernel_objects "")
if(rw_cpu_sources)
  foreach(type F32 F64)
    string(TOLOWER ${type} lower)
    add_library(rw_cpu_${lower} OBJECT ${rw_cpu_sources})
    target_compile_definitions(rw_cpu_${lower} PRIVATE RW_REAL_${type})
    target_compile_options(rw_cpu_${lower} PRIVATE ${RW_KERNEL_FLAGS})
    target_link_libraries(rw_cpu_${lower} PRIVATE OpenMP::OpenMP_C)
    list(APPEND rw_kernel_objects $<TARGET_OBJECTS:rw_cpu_${lower}>)
  endforeach()
endif()

set(rw_cuda_libraries "")
if(rw_cuda AND rw_cuda_sources)
  list(FILTER rw_kernel_sources EXCLUDE REGEX "/cuda_stub\\.c$")
  add_library(rw_cuda_objects OBJECT ${rw_cuda_sources})
  target_compile_options(rw_cuda_objects PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall>")
  list(APPEND rw_kernel_objects $<TARGET_OBJECTS:rw_cuda_objects>)
  set(rw_cuda_libraries CUDA::cudart_static) # it opens the driver, and lt.cu cuBLASLt: both may be missing
endif()

if(rw_kernel_sources OR rw_kernel_objects)
  add_library(rw_kernels STATIC ${rw_kernel_sources} ${rw_kernel_objects})
  set_target_properties(rw_kernels PROPERTIES LINKER_LANGUAGE C)
  target_link_libraries(rw_kernels PUBLIC rw_base OpenMP::OpenMP_C m ${CMAKE_DL_LIBS} ${rw_cuda_libraries})
else()
  add_library(rw_kernels INTERFACE)
  target_link_libraries(rw_kernels INTERFACE rw_base OpenMP::OpenMP_C)
endif()
