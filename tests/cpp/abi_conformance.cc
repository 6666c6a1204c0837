// SPDX-License-Identifier: MIT
// Holds ops/ort/ort_abi.h against ONNX Runtime's own header; compiling it is the test.
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>

#include "ort/ort_abi.h"

namespace ours = onnxloss::ort;

// A function pointer's type with each class and enumeration replaced by a stand-in for its kind, so
// that ::OrtValue* and onnxloss::ort::OrtValue* compare equal but OrtValue* and OrtValue** do not.
struct AnyClass;
struct AnyEnumeration;
template <class Type>
struct Erased {
  using type = std::conditional_t<std::is_class_v<Type>, AnyClass,
                                  std::conditional_t<std::is_enum_v<Type>, AnyEnumeration, Type>>;
};
template <class Type>
struct Erased<const Type> {
  using type = const typename Erased<Type>::type;
};
template <class Type>
struct Erased<Type*> {
  using type = typename Erased<Type>::type*;
};
template <class Result, class... Arguments>
struct Erased<Result(Arguments...)> {
  using type = typename Erased<Result>::type(typename Erased<Arguments>::type...);
};
template <class Result, class... Arguments>
struct Erased<Result(Arguments...) noexcept> : Erased<Result(Arguments...)> {};
template <class Ours, class Theirs>
constexpr bool kSameShape =
    std::is_same_v<typename Erased<Ours>::type, typename Erased<Theirs>::type>;

#define SAME_MEMBER(Struct, Member)                                                     \
  static_assert(offsetof(ours::Struct, Member) == offsetof(::Struct, Member),           \
                #Struct "::" #Member " lies elsewhere");                                \
  static_assert(kSameShape<decltype(ours::Struct::Member), decltype(::Struct::Member)>, \
                #Struct "::" #Member " has another type")
#define SAME_VALUE(Name) \
  static_assert(static_cast<int>(ours::Name) == static_cast<int>(::Name), #Name " differs")

SAME_MEMBER(OrtApiBase, GetApi);
SAME_MEMBER(OrtApiBase, GetVersionString);

SAME_MEMBER(OrtApi, CreateStatus);
SAME_MEMBER(OrtApi, CreateCustomOpDomain);
SAME_MEMBER(OrtApi, CustomOpDomain_Add);
SAME_MEMBER(OrtApi, AddCustomOpDomain);
SAME_MEMBER(OrtApi, GetTensorMutableData);
SAME_MEMBER(OrtApi, GetTensorElementType);
SAME_MEMBER(OrtApi, GetDimensionsCount);
SAME_MEMBER(OrtApi, GetDimensions);
SAME_MEMBER(OrtApi, GetTensorTypeAndShape);
SAME_MEMBER(OrtApi, KernelInfoGetAttribute_float);
SAME_MEMBER(OrtApi, KernelInfoGetAttribute_int64);
SAME_MEMBER(OrtApi, KernelInfoGetAttribute_string);
SAME_MEMBER(OrtApi, KernelContext_GetInputCount);
SAME_MEMBER(OrtApi, KernelContext_GetOutputCount);
SAME_MEMBER(OrtApi, KernelContext_GetInput);
SAME_MEMBER(OrtApi, KernelContext_GetOutput);
SAME_MEMBER(OrtApi, ReleaseStatus);
SAME_MEMBER(OrtApi, ReleaseTensorTypeAndShapeInfo);
SAME_MEMBER(OrtApi, KernelContext_ParallelFor);
SAME_MEMBER(OrtApi, AllocatorAlloc);
SAME_MEMBER(OrtApi, AllocatorFree);
SAME_MEMBER(OrtApi, AllocatorGetInfo);
SAME_MEMBER(OrtApi, ReleaseAllocator);
SAME_MEMBER(OrtApi, KernelContext_GetGPUComputeStream);
SAME_MEMBER(OrtApi, KernelContext_GetScratchBuffer);
SAME_MEMBER(OrtApi, KernelInfoGetAllocator);

SAME_MEMBER(OrtCustomOp, version);
SAME_MEMBER(OrtCustomOp, CreateKernel);
SAME_MEMBER(OrtCustomOp, GetName);
SAME_MEMBER(OrtCustomOp, GetExecutionProviderType);
SAME_MEMBER(OrtCustomOp, GetInputType);
SAME_MEMBER(OrtCustomOp, GetInputTypeCount);
SAME_MEMBER(OrtCustomOp, GetOutputType);
SAME_MEMBER(OrtCustomOp, GetOutputTypeCount);
SAME_MEMBER(OrtCustomOp, KernelCompute);
SAME_MEMBER(OrtCustomOp, KernelDestroy);
SAME_MEMBER(OrtCustomOp, GetInputCharacteristic);
SAME_MEMBER(OrtCustomOp, GetOutputCharacteristic);
SAME_MEMBER(OrtCustomOp, GetInputMemoryType);
SAME_MEMBER(OrtCustomOp, GetVariadicInputMinArity);
SAME_MEMBER(OrtCustomOp, GetVariadicInputHomogeneity);
SAME_MEMBER(OrtCustomOp, GetVariadicOutputMinArity);
SAME_MEMBER(OrtCustomOp, GetVariadicOutputHomogeneity);
SAME_MEMBER(OrtCustomOp, CreateKernelV2);
SAME_MEMBER(OrtCustomOp, KernelComputeV2);
SAME_MEMBER(OrtCustomOp, InferOutputShapeFn);
SAME_MEMBER(OrtCustomOp, GetStartVersion);
SAME_MEMBER(OrtCustomOp, GetEndVersion);
SAME_MEMBER(OrtCustomOp, GetMayInplace);
SAME_MEMBER(OrtCustomOp, ReleaseMayInplace);
SAME_MEMBER(OrtCustomOp, GetAliasMap);
SAME_MEMBER(OrtCustomOp, ReleaseAliasMap);
static_assert(sizeof(ours::OrtCustomOp) <= sizeof(::OrtCustomOp), "releases only append");

SAME_VALUE(ORT_FAIL);
SAME_VALUE(ORT_INVALID_ARGUMENT);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
SAME_VALUE(INPUT_OUTPUT_REQUIRED);
SAME_VALUE(INPUT_OUTPUT_OPTIONAL);
SAME_VALUE(OrtMemTypeDefault);
