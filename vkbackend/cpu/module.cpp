// vkbackend._cpu: calls of the kernels in kernels.h as nodes of a ggml graph.
//
// In: numpy arrays. Out: `Call`s that refer to their memory, which must stay where it is. A graph runs one as a custom
// op with the function ENTRY and the call's address as user data; `Call.run` runs it without ggml. Shapes, types and
// strides are checked here, before any kernel sees a pointer.
#include <pybind11/pybind11.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"

namespace py = pybind11;
using namespace vkbackend_cpu;

struct Variant {
    std::string name;
    const Kernels& (*kernels)();
};

// The variants that this CPU can run, the fastest last.
static const std::vector<Variant>& variants() {
    static const std::vector<Variant> found = [] {
        std::vector<Variant> some{{"base", &base_kernels}};
#ifdef HAS_X86_KERNELS
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
            !__builtin_cpu_supports("f16c"))
            return some;
        some.push_back({"avx2", &avx2_kernels});
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512vnni"))
            some.push_back({"avx512", &avx512_kernels});
#endif
        return some;
    }();
    return found;
}

static const Variant*& chosen_variant() {
    static const Variant* chosen = &variants().back();
    return chosen;
}

static const Kernels& kernels() { return chosen_variant()->kernels(); }

// One call of a kernel. kept: the arrays that it reads and writes.
struct Call {
    std::vector<py::object> kept;
    std::shared_ptr<Progress> progress;  // of a product
    virtual ~Call() = default;
    virtual void run(int task, int tasks) const = 0;
};

template <class Args>
struct CallOf : Call {
    void (*kernel)(const Args&, int, int);
    Args args;
    CallOf(void (*kernel_)(const Args&, int, int), const Args& args_) : kernel(kernel_), args(args_) {}
    void run(int task, int tasks) const override { kernel(args, task, tasks); }
};

extern "C" void vkbackend_cpu_entry(void*, int task, int tasks, void* call) {
    static_cast<const Call*>(call)->run(task, tasks);
}

static void require(bool condition, const std::string& what) {
    if (!condition) throw py::value_error(what);
}

template <class Args>
static std::unique_ptr<Call> make(void (*kernel)(const Args&, int, int), const Args& args,
                                  std::vector<py::object> kept) {
    auto call = std::make_unique<CallOf<Args>>(kernel, args);
    call->kept = std::move(kept);
    return call;
}

// An array of float32 whose rows are contiguous, as rows; nothing for None.
static Rows rows(const py::object& object, const char* name) {
    if (object.is_none()) return {nullptr, 0, 0, 0};
    require(py::isinstance<py::array_t<float>>(object), std::string(name) + " must be float32");
    auto array = py::reinterpret_borrow<py::array>(object);
    require(array.ndim() >= 2, std::string(name) + " must have rows");
    int64_t width = 1;
    for (int64_t axis = array.ndim() - 1; axis > 0; --axis) {
        require(array.shape(axis) == 1 || array.strides(axis) == width * int64_t(sizeof(float)),
                std::string(name) + " must have contiguous rows");
        width *= array.shape(axis);
    }
    const int64_t stride = array.shape(0) == 1 ? width : array.strides(0) / int64_t(sizeof(float));
    require(stride >= width, std::string(name) + " must have its rows one after the other");
    return {const_cast<float*>(static_cast<const float*>(array.data())), array.shape(0), width, stride};
}

// The elements of a contiguous array; null for None.
template <class T>
static const T* values(const py::object& object, const char* name, int64_t count) {
    if (object.is_none()) return nullptr;
    require(py::isinstance<py::array_t<T>>(object), std::string(name) + " has the wrong type");
    auto array = py::reinterpret_borrow<py::array>(object);
    require((array.flags() & py::array::c_style) != 0 && array.size() == count,
            std::string(name) + " must be contiguous and have " + std::to_string(count) + " elements");
    return static_cast<const T*>(array.data());
}

static int64_t dimension(const py::object& array, int axis) {
    return py::reinterpret_borrow<py::array>(array).shape(axis);
}

// data: f32, f16 (pages, page_size, kv_heads, head_dim), or int8 with `scales`.
static Cache cache(const py::array& data, const py::object& scales, const char* name) {
    require(data.ndim() == 4 && (data.flags() & py::array::c_style) != 0,
            std::string(name) + " must be contiguous, with 4 dimensions");
    const int64_t head_dim = data.shape(3);
    require(head_dim % 8 == 0 && head_dim <= MAX_HEAD_DIM, std::string(name) + " has an unknown head_dim");
    Cache found{
        Element::F32, const_cast<void*>(data.data()), nullptr, data.shape(0), data.shape(1), data.shape(2),
        head_dim};
    const char kind = data.dtype().kind();
    if (!scales.is_none()) {
        require(kind == 'i' && data.itemsize() == 1 && head_dim % 32 == 0,
                std::string(name) + " is not q8_0");
        auto halves = py::reinterpret_borrow<py::array>(scales);
        require(halves.itemsize() == 2 && (halves.flags() & py::array::c_style) != 0 &&
                    halves.size() * 32 == data.size(),
                std::string(name) + " has the wrong scales");
        found.type = Element::Q8;
        found.scales = static_cast<uint16_t*>(const_cast<void*>(halves.data()));
    } else {
        require(kind == 'f' && (data.itemsize() == 4 || data.itemsize() == 2),
                std::string(name) + " has an unknown dtype");
        found.type = data.itemsize() == 4 ? Element::F32 : Element::F16;
    }
    return found;
}

static Tokens tokens(const py::object& positions, const py::object& sequences, const py::object& page_table,
                     int64_t count) {
    const int64_t pages = dimension(page_table, 1);
    return {values<int32_t>(positions, "positions", count), values<int32_t>(sequences, "sequences", count),
            values<int32_t>(page_table, "page_table", dimension(page_table, 0) * pages), count, pages};
}

static void same_cells(const Cache& keys, const Cache& other) {
    require(keys.type == other.type && keys.num_pages == other.num_pages &&
                keys.page_size == other.page_size && keys.kv_heads == other.kv_heads &&
                keys.head_dim == other.head_dim,
            "k_cache and v_cache differ");
}

static void same(const Rows& a, const Rows& b, const char* name) {
    require(!b.data || (a.count == b.count && a.width == b.width), std::string(name) + " has another shape");
}

static Gate gate_of(const std::string& name) {
    require(name.empty() || name == "silu" || name == "gelu", "unknown gate " + name);
    return name.empty() ? Gate::NONE : name == "silu" ? Gate::SILU : Gate::GELU;
}

static std::unique_ptr<Call> rms_norm(py::object x, py::object weight, py::object residual, py::object y,
                                      float eps) {
    const int64_t size = dimension(weight, 0);
    NormArgs args{rows(x, "x"), rows(residual, "residual"),
                  rows(y, "y"), values<float>(weight, "weight", size),
                  size,         eps};
    require(size > 0 && args.x.width % size == 0, "weight has another size than x");
    same(args.x, args.y, "y");
    same(args.x, args.residual, "residual");
    return make(kernels().rms_norm, args, {x, weight, residual, y});
}

static std::unique_ptr<Call> layer_norm(py::object x, py::object weight, py::object bias, py::object residual,
                                        py::object y, float eps, int64_t padding) {
    const int64_t count = dimension(weight, 0);
    const int64_t size = dimension(x, int(py::reinterpret_borrow<py::array>(x).ndim()) - 1);
    LayerNormArgs args{rows(x, "x"),
                       rows(residual, "residual"),
                       rows(y, "y"),
                       values<float>(weight, "weight", count),
                       values<float>(bias, "bias", count),
                       size,
                       padding,
                       count == size ? 0 : size,
                       eps};
    require(size > 0 && (count == size || count == args.x.width), "weight has another size than x");
    require(padding >= 0 && padding < size, "padding leaves no element");
    same(args.x, args.y, "y");
    same(args.x, args.residual, "residual");
    return make(kernels().layer_norm, args, {x, weight, bias, residual, y});
}

static std::unique_ptr<Call> activation(py::object x, py::object y, const std::string& kind) {
    static const std::map<std::string, Activation> kinds = {{"gelu_tanh", Activation::GELU_TANH},
                                                            {"gelu_erf", Activation::GELU_ERF},
                                                            {"relu_squared", Activation::RELU_SQUARED}};
    require(kinds.count(kind) == 1, "unknown activation " + kind);
    ActivationArgs args{rows(x, "x"), rows(y, "y"), kinds.at(kind)};
    same(args.x, args.y, "y");
    return make(kernels().activation, args, {x, y});
}

static std::unique_ptr<Call> finish(py::object x, py::object bias, py::object residual, py::object y,
                                    const std::string& gate) {
    FinishArgs args{rows(x, "x"), rows(residual, "residual"), rows(y, "y"), nullptr, gate_of(gate)};
    args.bias = values<float>(bias, "bias", args.x.width);
    require(args.x.count == args.y.count && args.x.width == args.y.width * (args.gate == Gate::NONE ? 1 : 2),
            "y has another shape");
    same(args.y, args.residual, "residual");
    return make(kernels().finish, args, {x, bias, residual, y});
}

static std::unique_ptr<Call> gate(py::object gate, py::object up, py::object y, const std::string& kind) {
    GateArgs args{rows(gate, "gate"), rows(up, "up"), rows(y, "y"), gate_of(kind)};
    same(args.gate, args.up, "up");
    same(args.gate, args.y, "y");
    require(args.kind != Gate::NONE, "gate must be silu or gelu");
    return make(kernels().gate, args, {gate, up, y});
}

static std::unique_ptr<Call> softcap(py::object x, py::object y, float cap) {
    SoftcapArgs args{rows(x, "x"), rows(y, "y"), cap};
    same(args.x, args.y, "y");
    return make(kernels().softcap, args, {x, y});
}

static std::unique_ptr<Call> gather(py::object x, py::object indices, py::object y) {
    GatherArgs args{rows(x, "x"), rows(y, "y"), nullptr};
    args.rows = values<int32_t>(indices, "rows", args.y.count);
    require(args.x.width == args.y.width, "y has another width");
    return make(kernels().gather, args, {x, indices, y});
}

static std::unique_ptr<Call> rotation(py::object positions, py::object axes, py::object turns, py::object y) {
    RotationArgs args{nullptr, 1, nullptr, nullptr, rows(y, "y")};
    args.num_axes = py::reinterpret_borrow<py::array>(positions).ndim() == 2 ? dimension(positions, 1) : 1;
    args.positions = values<int32_t>(positions, "positions", args.y.count * args.num_axes);
    args.axes = values<int32_t>(axes, "axes", args.y.width / 2);
    args.turns = values<float>(turns, "turns", args.y.width + 1);
    for (int64_t pair = 0; args.axes && pair < args.y.width / 2; ++pair)
        require(args.axes[pair] >= 0 && args.axes[pair] < args.num_axes, "an axis does not exist");
    return make(kernels().rotation, args, {positions, axes, turns, y});
}

static std::unique_ptr<Call> split_heads(py::object x, py::object rotation, py::object q_norm,
                                         py::object k_norm, py::object positions, py::object sequences,
                                         py::object page_table, py::array k_data, py::object k_scales,
                                         py::array v_data, py::object v_scales, py::object q, bool adjacent,
                                         float eps, bool norm_last) {
    const Cache keys = cache(k_data, k_scales, "k_cache"), stored = cache(v_data, v_scales, "v_cache");
    same_cells(keys, stored);
    const int64_t size = keys.head_dim;
    SplitArgs args{rows(x, "qkv"),
                   rows(rotation, "rotation"),
                   rows(q, "q"),
                   values<float>(q_norm, "q_norm", size),
                   values<float>(k_norm, "k_norm", size),
                   tokens(positions, sequences, page_table, dimension(x, 0)),
                   keys,
                   stored,
                   0,
                   0,
                   adjacent,
                   norm_last,
                   eps};
    args.heads = args.q.width / size;
    args.n_rot = args.rotation.width;
    require(args.q.width % size == 0 && args.x.width == (args.heads + 2 * keys.kv_heads) * size &&
                args.q.count == args.x.count && args.rotation.count == args.x.count && args.n_rot <= size,
            "qkv, q, rotation and the caches do not fit together");
    return make(kernels().split_heads, args,
                {x, rotation, q_norm, k_norm, positions, sequences, page_table, k_data, k_scales, v_data,
                 v_scales, q});
}

static std::unique_ptr<Call> attention(py::object q, py::object positions, py::object sequences,
                                       py::object page_table, py::object limits, py::object sinks,
                                       py::array k_data, py::object k_scales, py::array v_data,
                                       py::object v_scales, py::object y, float scale, int64_t window,
                                       float softcap) {
    const Cache keys = cache(k_data, k_scales, "k_cache"), stored = cache(v_data, v_scales, "v_cache");
    same_cells(keys, stored);
    AttentionArgs args{rows(q, "q"),
                       rows(y, "y"),
                       keys,
                       stored,
                       tokens(positions, sequences, page_table, dimension(q, 0)),
                       values<int32_t>(limits, "limits", dimension(q, 0)),
                       nullptr,
                       0,
                       window,
                       scale,
                       softcap};
    args.heads = args.q.width / keys.head_dim;
    args.sinks = values<float>(sinks, "sinks", args.heads);
    same(args.q, args.y, "y");
    require(args.q.width % keys.head_dim == 0 && args.heads > 0 && args.heads % keys.kv_heads == 0 &&
                window >= 0,
            "q and the caches do not fit together");
    return make(kernels().attention, args,
                {q, positions, sequences, page_table, limits, sinks, k_data, k_scales, v_data, v_scales, y});
}

static std::unique_ptr<Call> strips(py::object logits, py::object y) {
    StripsArgs args{rows(logits, "logits"), rows(y, "strips")};
    require(args.logits.count == args.strips.count &&
                args.strips.width == (args.logits.width + 4095) / 4096 * 128,
            "strips has another shape");
    return make(kernels().strips, args, {logits, y});
}

static std::unique_ptr<Call> candidates(py::object logits, py::object strips, py::object stats,
                                        py::object counts, py::object ids, py::object values_, int64_t k) {
    CandidatesArgs args{rows(logits, "logits"),
                        rows(strips, "strips"),
                        rows(stats, "stats"),
                        nullptr,
                        nullptr,
                        nullptr,
                        dimension(ids, 1),
                        k};
    const int64_t count = args.logits.count;
    args.counts = const_cast<int32_t*>(values<int32_t>(counts, "counts", count));
    args.ids = const_cast<int32_t*>(values<int32_t>(ids, "ids", count * args.capacity));
    args.values = const_cast<float*>(values<float>(values_, "values", count * args.capacity));
    require(k >= 1 && args.strips.count == count && args.stats.count == count && args.stats.width == 4 &&
                args.strips.width == (args.logits.width + 4095) / 4096 * 128,
            "logits, strips and stats do not fit together");
    return make(&find_candidates, args, {logits, strips, stats, counts, ids, values_});
}

static const ProductKernel& product_kernel(int type) {
    const ProductKernel* found = kernels().find_product(type);
    require(found, "there is no kernel for weights of type " + std::to_string(type));
    return *found;
}

static int64_t num_code_bytes(int type, int64_t rows, int64_t k) {
    const ProductKernel& kernel = product_kernel(type);
    return rows * ((k + kernel.group_size - 1) / kernel.group_size) * kernel.group_bytes;
}

static uint8_t* codes_of(const py::object& codes, int type, int64_t rows, int64_t k) {
    const uint8_t* found = values<uint8_t>(codes, "codes", num_code_bytes(type, rows, k));
    require(found && reinterpret_cast<uintptr_t>(found) % 32 == 0, "codes must be aligned to 32 bytes");
    return const_cast<uint8_t*>(found);
}

static std::unique_ptr<Call> quantize(py::object x, int type, py::object codes) {
    QuantizeArgs args{rows(x, "x"), nullptr};
    require(args.x.width % product_kernel(type).block_size == 0, "x does not consist of whole blocks");
    args.codes = codes_of(codes, type, args.x.count, args.x.width);
    return make(product_kernel(type).quantize, args, {x, codes});
}

static std::unique_ptr<Call> product(py::object weights, int type, py::object codes, int64_t k,
                                     py::object y) {
    const ProductKernel& kernel = product_kernel(type);
    ProductArgs args{nullptr, nullptr, k, rows(y, "y"), nullptr};
    require(k > 0 && k % kernel.block_size == 0, "k does not consist of whole blocks");
    const int64_t row_bytes = k / kernel.block_size * kernel.block_bytes;
    args.weights = values<uint8_t>(weights, "weights", args.y.width * row_bytes);
    args.codes = codes_of(codes, type, args.y.count, k);
    auto progress = std::make_shared<Progress>();
    args.progress = progress.get();
    auto call = make(kernel.multiply, args, {weights, codes, y});
    call->progress = std::move(progress);
    return call;
}

static void choose_variant(const std::string& name) {
    for (const Variant& each : variants())
        if (each.name == name) {
            chosen_variant() = &each;
            return;
        }
    require(false, "this CPU has no variant " + name);
}

static void run(const Call& call, int tasks) {
    require(tasks >= 1, "tasks must be at least 1");
    py::gil_scoped_release released;
    std::vector<std::thread> others;
    for (int task = 1; task < tasks; ++task)
        others.emplace_back([&call, task, tasks] { call.run(task, tasks); });
    call.run(0, tasks);
    for (auto& other : others) other.join();
}

PYBIND11_MODULE(_cpu, m) {
    py::class_<Call>(m, "Call")
        .def("run", &run, py::arg("tasks") = 1)
        .def_property_readonly("address",
                               [](const Call& call) { return reinterpret_cast<uintptr_t>(&call); });
    m.attr("ENTRY") = reinterpret_cast<uintptr_t>(&vkbackend_cpu_entry);
    m.attr("MAX_HEAD_DIM") = MAX_HEAD_DIM;
    std::vector<std::string> names;
    for (const Variant& each : variants()) names.push_back(each.name);
    m.attr("VARIANTS") = py::tuple(py::cast(names));
    m.def("choose_variant", &choose_variant, py::arg("name"));
    using py::arg;
    m.def("rms_norm", &rms_norm, arg("x"), arg("weight"), arg("residual"), arg("y"), arg("eps"));
    m.def("layer_norm", &layer_norm, arg("x"), arg("weight"), arg("bias"), arg("residual"), arg("y"),
          arg("eps"), arg("padding"));
    m.def("activation", &activation, arg("x"), arg("y"), arg("kind"));
    m.def("finish", &finish, arg("x"), arg("bias"), arg("residual"), arg("y"), arg("gate"));
    m.def("gate", &gate, arg("gate"), arg("up"), arg("y"), arg("kind"));
    m.def("softcap", &softcap, arg("x"), arg("y"), arg("cap"));
    m.def("gather", &gather, arg("x"), arg("rows"), arg("y"));
    m.def("rotation", &rotation, arg("positions"), arg("axes"), arg("turns"), arg("y"));
    m.def("split_heads", &split_heads, arg("x"), arg("rotation"), arg("q_norm"), arg("k_norm"),
          arg("positions"), arg("sequences"), arg("page_table"), arg("k_data"), arg("k_scales"),
          arg("v_data"), arg("v_scales"), arg("q"), arg("adjacent"), arg("eps"), arg("norm_last"));
    m.def("attention", &attention, arg("q"), arg("positions"), arg("sequences"), arg("page_table"),
          arg("limits"), arg("sinks"), arg("k_data"), arg("k_scales"), arg("v_data"), arg("v_scales"),
          arg("y"), arg("scale"), arg("window"), arg("softcap"));
    m.def("strips", &strips, arg("logits"), arg("strips"));
    m.def("has_product", [](int type) { return kernels().find_product(type) != nullptr; }, arg("type"));
    m.def("group_size", [](int type) { return product_kernel(type).group_size; }, arg("type"));
    m.def("num_code_bytes", &num_code_bytes, arg("type"), arg("rows"), arg("k"));
    m.def("quantize", &quantize, arg("x"), arg("type"), arg("codes"));
    m.def("product", &product, arg("weights"), arg("type"), arg("codes"), arg("k"), arg("y"));
    m.def("candidates", &candidates, arg("logits"), arg("strips"), arg("stats"), arg("counts"), arg("ids"),
          arg("values"), arg("k"));
}
