// vkbackend._native: Vulkan objects that Kompute (kp) lacks, as kp operations and plain handles.
//
// In: raw handles of an instance and a device opened by vkbackend/device/context.py. Out: Memory, Kernel and
// operations (dispatch, barrier, copy, timestamp) that a kp.Sequence records; `Submission` runs what was
// recorded, without the GIL, with every VkResult checked and a time limit.
//
// kp.Tensor is not used for memory: it ignores failed allocations (and crashes later), takes 32-bit sizes,
// copies its data twice and fixes its buffer's usage. kp.Sequence owns the command pool and buffer; its own
// eval() ignores results, so the command buffer is captured by the first recorded operation and submitted
// here.
#include "pages.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <kompute/Sequence.hpp>
#include <kompute/operations/OpBase.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

struct VulkanError : std::runtime_error {
    VkResult result;
    VulkanError(const std::string& what, VkResult result_) : std::runtime_error(what), result(result_) {}
};

static void check(VkResult result, const char* call) {
    if (result != VK_SUCCESS)
        throw VulkanError(std::string(call) + " gave " + vk::to_string(vk::Result(result)), result);
}

static std::vector<uint32_t> words(const py::bytes& spirv) {
    std::string bytes = spirv;
    std::vector<uint32_t> code(bytes.size() / 4);
    std::memcpy(code.data(), bytes.data(), code.size() * 4);
    return code;
}

// The opened device. Everything made from it holds a reference, so it is destroyed last.
struct Context {
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    uint32_t family;
    VkQueue queue = VK_NULL_HANDLE;
    VkPipelineCache cache = VK_NULL_HANDLE;
    VkPhysicalDeviceMemoryProperties heaps{};
    std::shared_ptr<vk::PhysicalDevice> kp_physical;
    std::shared_ptr<vk::Device> kp_device;
    std::shared_ptr<vk::Queue> kp_queue;

    Context(uintptr_t instance_, uintptr_t physical_, uintptr_t device_, uint32_t family_,
            const py::bytes& cache_data)
        : instance(VkInstance(instance_)), physical(VkPhysicalDevice(physical_)), device(VkDevice(device_)),
          family(family_) {
        vkGetDeviceQueue(device, family, 0, &queue);
        vkGetPhysicalDeviceMemoryProperties(physical, &heaps);
        std::string data = cache_data;
        VkPipelineCacheCreateInfo info{VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
        info.initialDataSize = data.size();
        info.pInitialData = data.data();
        check(vkCreatePipelineCache(device, &info, nullptr, &cache), "vkCreatePipelineCache");
        kp_physical = std::make_shared<vk::PhysicalDevice>(physical);
        kp_device = std::make_shared<vk::Device>(device);
        kp_queue = std::make_shared<vk::Queue>(queue);
    }
    ~Context() {
        vkDeviceWaitIdle(device);
        vkDestroyPipelineCache(device, cache, nullptr);
        vkDestroyDevice(device, nullptr);
        vkDestroyInstance(instance, nullptr);
    }
    Context(const Context&) = delete;

    py::bytes cache_data() const {
        size_t size = 0;
        check(vkGetPipelineCacheData(device, cache, &size, nullptr), "vkGetPipelineCacheData");
        std::string data(size, 0);
        check(vkGetPipelineCacheData(device, cache, &size, data.data()), "vkGetPipelineCacheData");
        return py::bytes(data.data(), size);
    }
    std::shared_ptr<kp::Sequence> sequence() const {
        return std::make_shared<kp::Sequence>(kp_physical, kp_device, kp_queue, family, 0);
    }
};

// A buffer with its own memory. `wanted` property flags are tried in order, so that the caller can prefer
// cached memory.
struct Memory {
    std::shared_ptr<Context> context;
    VkBuffer buffer = VK_NULL_HANDLE;
    VkDeviceMemory memory = VK_NULL_HANDLE;
    void* mapped = nullptr;
    uint64_t size;
    VkMemoryPropertyFlags flags = 0;

    Memory(std::shared_ptr<Context> context_, uint64_t size_, VkBufferUsageFlags usage,
           const std::vector<VkMemoryPropertyFlags>& wanted)
        : context(context_), size(size_) {
        VkBufferCreateInfo info{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
        info.size = size;
        info.usage = usage;
        check(vkCreateBuffer(context->device, &info, nullptr, &buffer), "vkCreateBuffer");
        VkMemoryRequirements needs;
        vkGetBufferMemoryRequirements(context->device, buffer, &needs);
        VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
        for (VkMemoryPropertyFlags want : wanted) {
            for (uint32_t type = 0; type < context->heaps.memoryTypeCount && !memory; type++) {
                if (!(needs.memoryTypeBits >> type & 1) ||
                    (context->heaps.memoryTypes[type].propertyFlags & want) != want)
                    continue;
                VkMemoryAllocateInfo allocate{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
                allocate.allocationSize = needs.size;
                allocate.memoryTypeIndex = type;
                result = vkAllocateMemory(context->device, &allocate, nullptr, &memory);
                if (result != VK_SUCCESS) memory = VK_NULL_HANDLE;
                flags = context->heaps.memoryTypes[type].propertyFlags;
            }
            if (memory) break;
        }
        if (!memory) {
            release();
            throw VulkanError("vkAllocateMemory of " + std::to_string(size) + " bytes gave " +
                                  vk::to_string(vk::Result(result)),
                              result);
        }
        result = vkBindBufferMemory(context->device, buffer, memory, 0);
        if (result == VK_SUCCESS && (flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) &&
            (flags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT))
            result = vkMapMemory(context->device, memory, 0, VK_WHOLE_SIZE, 0, &mapped);
        if (result != VK_SUCCESS) {
            release();
            check(result, "binding or mapping memory");
        }
    }
    ~Memory() { release(); }
    Memory(const Memory&) = delete;

    void release() {
        if (buffer) vkDestroyBuffer(context->device, buffer, nullptr);
        if (memory) vkFreeMemory(context->device, memory, nullptr);
        buffer = VK_NULL_HANDLE;
        memory = VK_NULL_HANDLE;
        mapped = nullptr;
    }
    // Make huge pages, as far as that is fast. is_whole: and pages of the usual size for the rest.
    void make_pages(bool is_whole) const {
        const uint64_t STEP = 2 << 20;
        uint8_t* begin = static_cast<uint8_t*>(mapped);
        if (!begin) return;
        make_huge_pages(begin, size);
        for (uint64_t at = 0; is_whole && at < size; at += STEP)
            ::make_pages(begin + at, std::min(STEP, size - at));
    }
};

// Kinds of bindings: 0 is a storage buffer, the others are uniform texel buffers of these formats.
static const VkFormat TEXEL_FORMATS[] = {VK_FORMAT_UNDEFINED, VK_FORMAT_R32G32B32A32_UINT, VK_FORMAT_R32_UINT,
                                         VK_FORMAT_R32G32B32A32_SFLOAT, VK_FORMAT_R32_SFLOAT};
static const uint32_t TEXEL_BYTES[] = {0, 16, 4, 16, 4};

struct Kernel {
    std::shared_ptr<Context> context;
    std::vector<int> bindings;
    uint32_t push_words;
    VkShaderModule module = VK_NULL_HANDLE;
    VkDescriptorSetLayout set_layout = VK_NULL_HANDLE;
    VkPipelineLayout layout = VK_NULL_HANDLE;
    VkPipeline pipeline = VK_NULL_HANDLE;

    Kernel(std::shared_ptr<Context> context_, const py::bytes& spirv, std::vector<int> bindings_,
           uint32_t push_words_, const std::map<uint32_t, uint32_t>& constants, uint32_t subgroup_size)
        : context(context_), bindings(bindings_), push_words(push_words_) {
        for (int kind : bindings)
            if (kind < 0 || kind >= int(std::size(TEXEL_FORMATS)))
                throw std::invalid_argument("unknown kind of binding");
        std::vector<uint32_t> code = words(spirv);
        try {
            VkShaderModuleCreateInfo module_info{VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
            module_info.codeSize = code.size() * 4;
            module_info.pCode = code.data();
            check(vkCreateShaderModule(context->device, &module_info, nullptr, &module),
                  "vkCreateShaderModule");

            std::vector<VkDescriptorSetLayoutBinding> slots;
            for (uint32_t i = 0; i < bindings.size(); i++)
                slots.push_back({i,
                                 bindings[i] ? VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER
                                             : VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr});
            VkDescriptorSetLayoutCreateInfo set_info{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO};
            set_info.bindingCount = uint32_t(slots.size());
            set_info.pBindings = slots.data();
            check(vkCreateDescriptorSetLayout(context->device, &set_info, nullptr, &set_layout),
                  "vkCreateDescriptorSetLayout");

            VkPushConstantRange push{VK_SHADER_STAGE_COMPUTE_BIT, 0, push_words * 4};
            VkPipelineLayoutCreateInfo layout_info{VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO};
            layout_info.setLayoutCount = 1;
            layout_info.pSetLayouts = &set_layout;
            layout_info.pushConstantRangeCount = push_words ? 1 : 0;
            layout_info.pPushConstantRanges = &push;
            check(vkCreatePipelineLayout(context->device, &layout_info, nullptr, &layout),
                  "vkCreatePipelineLayout");

            std::vector<VkSpecializationMapEntry> entries;
            std::vector<uint32_t> values;
            for (auto& [id, value] : constants) {
                entries.push_back({id, uint32_t(values.size() * 4), 4});
                values.push_back(value);
            }
            VkSpecializationInfo special{uint32_t(entries.size()), entries.data(), values.size() * 4,
                                         values.data()};
            VkPipelineShaderStageRequiredSubgroupSizeCreateInfo required{
                VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO};
            required.requiredSubgroupSize = subgroup_size;
            VkComputePipelineCreateInfo info{VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO};
            info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
            info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
            info.stage.module = module;
            info.stage.pName = "main";
            info.stage.pSpecializationInfo = &special;
            if (subgroup_size) {
                info.stage.pNext = &required;
                info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
            }
            info.layout = layout;
            py::gil_scoped_release release_gil;
            check(vkCreateComputePipelines(context->device, context->cache, 1, &info, nullptr, &pipeline),
                  "vkCreateComputePipelines");
        } catch (...) {
            release();
            throw;
        }
    }
    ~Kernel() { release(); }
    Kernel(const Kernel&) = delete;

    void release() {
        VkDevice device = context->device;
        if (pipeline) vkDestroyPipeline(device, pipeline, nullptr);
        if (layout) vkDestroyPipelineLayout(device, layout, nullptr);
        if (set_layout) vkDestroyDescriptorSetLayout(device, set_layout, nullptr);
        if (module) vkDestroyShaderModule(device, module, nullptr);
    }
};

struct Op : kp::OpBase {
    void preEval(const vk::CommandBuffer&) override {}
    void postEval(const vk::CommandBuffer&) override {}
};

using Range = std::tuple<std::shared_ptr<Memory>, uint64_t, uint64_t>;  // memory, offset, bytes

struct OpDispatch : Op {
    std::shared_ptr<Kernel> kernel;
    std::vector<Range> ranges;
    std::array<uint32_t, 3> groups;
    std::vector<uint32_t> push;
    std::vector<VkBufferView> views;
    VkDescriptorPool pool = VK_NULL_HANDLE;
    VkDescriptorSet set = VK_NULL_HANDLE;

    OpDispatch(std::shared_ptr<Kernel> kernel_, std::vector<Range> ranges_, std::array<uint32_t, 3> groups_,
               std::vector<uint32_t> push_)
        : kernel(kernel_), ranges(ranges_), groups(groups_), push(push_) {
        if (ranges.size() != kernel->bindings.size())
            throw std::invalid_argument("bindings do not match the kernel's");
        if (push.size() != kernel->push_words)
            throw std::invalid_argument("push constants do not match the kernel's");
        VkDevice device = kernel->context->device;
        uint32_t texels = 0;
        for (int kind : kernel->bindings) texels += kind != 0;
        std::vector<VkDescriptorPoolSize> sizes;
        if (ranges.size() > texels)
            sizes.push_back({VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, uint32_t(ranges.size()) - texels});
        if (texels) sizes.push_back({VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER, texels});
        VkDescriptorPoolCreateInfo pool_info{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
        pool_info.maxSets = 1;
        pool_info.poolSizeCount = uint32_t(sizes.size());
        pool_info.pPoolSizes = sizes.data();
        try {
            check(vkCreateDescriptorPool(device, &pool_info, nullptr, &pool), "vkCreateDescriptorPool");
            VkDescriptorSetAllocateInfo info{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO};
            info.descriptorPool = pool;
            info.descriptorSetCount = 1;
            info.pSetLayouts = &kernel->set_layout;
            check(vkAllocateDescriptorSets(device, &info, &set), "vkAllocateDescriptorSets");
            bind(device);
        } catch (...) {
            release();
            throw;
        }
    }
    ~OpDispatch() override { release(); }

    void bind(VkDevice device) {
        std::vector<VkDescriptorBufferInfo> buffers(ranges.size());
        std::vector<VkWriteDescriptorSet> writes;
        views.reserve(ranges.size());
        for (uint32_t i = 0; i < ranges.size(); i++) {
            auto& [memory, offset, bytes] = ranges[i];
            VkWriteDescriptorSet write{VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET};
            write.dstSet = set;
            write.dstBinding = i;
            write.descriptorCount = 1;
            if (int kind = kernel->bindings[i]) {
                VkBufferViewCreateInfo info{VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO};
                info.buffer = memory->buffer;
                info.format = TEXEL_FORMATS[kind];
                info.offset = offset;
                info.range = bytes / TEXEL_BYTES[kind] * TEXEL_BYTES[kind];
                VkBufferView view;
                check(vkCreateBufferView(device, &info, nullptr, &view), "vkCreateBufferView");
                views.push_back(view);
                write.descriptorType = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER;
                write.pTexelBufferView = &views.back();
            } else {
                buffers[i] = {memory->buffer, offset, bytes};
                write.descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
                write.pBufferInfo = &buffers[i];
            }
            writes.push_back(write);
        }
        vkUpdateDescriptorSets(device, uint32_t(writes.size()), writes.data(), 0, nullptr);
    }
    void release() {
        for (VkBufferView view : views) vkDestroyBufferView(kernel->context->device, view, nullptr);
        if (pool) vkDestroyDescriptorPool(kernel->context->device, pool, nullptr);
    }
    void record(const vk::CommandBuffer& commands) override {
        VkCommandBuffer raw = commands;
        vkCmdBindPipeline(raw, VK_PIPELINE_BIND_POINT_COMPUTE, kernel->pipeline);
        vkCmdBindDescriptorSets(raw, VK_PIPELINE_BIND_POINT_COMPUTE, kernel->layout, 0, 1, &set, 0, nullptr);
        if (!push.empty())
            vkCmdPushConstants(raw, kernel->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, uint32_t(push.size() * 4),
                               push.data());
        vkCmdDispatch(raw, groups[0], groups[1], groups[2]);
    }
};

struct OpBarrier : Op {
    uint32_t from_stage, from_access, to_stage, to_access;
    OpBarrier(uint32_t from_stage_, uint32_t from_access_, uint32_t to_stage_, uint32_t to_access_)
        : from_stage(from_stage_), from_access(from_access_), to_stage(to_stage_), to_access(to_access_) {}
    void record(const vk::CommandBuffer& commands) override {
        VkMemoryBarrier barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER, nullptr, from_access, to_access};
        vkCmdPipelineBarrier(commands, from_stage, to_stage, 0, 1, &barrier, 0, nullptr, 0, nullptr);
    }
};

struct OpCopy : Op {
    std::shared_ptr<Memory> from, to;
    VkBufferCopy region;
    OpCopy(std::shared_ptr<Memory> from_, uint64_t from_offset, std::shared_ptr<Memory> to_,
           uint64_t to_offset, uint64_t bytes)
        : from(from_), to(to_), region{from_offset, to_offset, bytes} {}
    void record(const vk::CommandBuffer& commands) override {
        vkCmdCopyBuffer(commands, from->buffer, to->buffer, 1, &region);
    }
};

struct Timestamps {
    std::shared_ptr<Context> context;
    VkQueryPool pool = VK_NULL_HANDLE;
    uint32_t count;
    Timestamps(std::shared_ptr<Context> context_, uint32_t count_) : context(context_), count(count_) {
        VkQueryPoolCreateInfo info{VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO};
        info.queryType = VK_QUERY_TYPE_TIMESTAMP;
        info.queryCount = count;
        check(vkCreateQueryPool(context->device, &info, nullptr, &pool), "vkCreateQueryPool");
    }
    ~Timestamps() { vkDestroyQueryPool(context->device, pool, nullptr); }
    Timestamps(const Timestamps&) = delete;
    std::vector<uint64_t> read() const {
        std::vector<uint64_t> values(count);
        check(vkGetQueryPoolResults(context->device, pool, 0, count, count * 8, values.data(), 8,
                                    VK_QUERY_RESULT_64_BIT),
              "vkGetQueryPoolResults");
        return values;
    }
};

// Writes timestamp `index`; index 0 also resets the pool first.
struct OpTimestamp : Op {
    std::shared_ptr<Timestamps> timestamps;
    uint32_t index;
    OpTimestamp(std::shared_ptr<Timestamps> timestamps_, uint32_t index_)
        : timestamps(timestamps_), index(index_) {}
    void record(const vk::CommandBuffer& commands) override {
        if (index == 0) vkCmdResetQueryPool(commands, timestamps->pool, 0, timestamps->count);
        vkCmdWriteTimestamp(
            commands, index == 0 ? VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT : VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT,
            timestamps->pool, index);
    }
};

// Remembers the command buffer that a kp.Sequence records into.
struct OpCapture : Op {
    VkCommandBuffer commands = VK_NULL_HANDLE;
    void record(const vk::CommandBuffer& commands_) override { commands = commands_; }
};

// Runs a recorded kp.Sequence: submit, then wait with a time limit, both without the GIL. A Submission runs one
// at a time; those of one device run in the order in which they were submitted.
//
// After a wait that timed out, the queue may still be running the commands, and nothing that they use may be
// destroyed before they are done: command buffer, pipelines, descriptor sets, memory, all of which the
// sequence's recorded operations hold. The destructor waits for another GRACE_NS. A device that hangs longer
// may never finish, and waiting for it would hang the program as well, so the sequence and its device are
// leaked for the rest of the process. The caller has already been told that the device is lost.
static const uint64_t GRACE_NS = 2'000'000'000;

struct Submission {
    std::shared_ptr<Context> context;
    std::shared_ptr<kp::Sequence> sequence;
    std::shared_ptr<OpCapture> capture;
    VkFence fence = VK_NULL_HANDLE;
    bool is_pending = false;  // submitted and not known to be done

    Submission(std::shared_ptr<Context> context_, std::shared_ptr<kp::Sequence> sequence_,
               std::shared_ptr<OpCapture> capture_)
        : context(context_), sequence(sequence_), capture(capture_) {
        if (!capture->commands) throw std::invalid_argument("the sequence has not recorded its OpCapture");
        sequence->end();
        VkFenceCreateInfo info{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
        check(vkCreateFence(context->device, &info, nullptr, &fence), "vkCreateFence");
    }
    ~Submission() {
        // Lost devices count as done: their objects may be destroyed.
        if (is_pending && vkWaitForFences(context->device, 1, &fence, VK_TRUE, GRACE_NS) == VK_TIMEOUT) {
            new std::shared_ptr<Context>(std::move(context));
            new std::shared_ptr<kp::Sequence>(std::move(sequence));
            return;
        }
        vkDestroyFence(context->device, fence, nullptr);
    }
    Submission(const Submission&) = delete;

    void submit(uint64_t limit_ns) {
        py::gil_scoped_release release_gil;
        VkSubmitInfo info{VK_STRUCTURE_TYPE_SUBMIT_INFO};
        info.commandBufferCount = 1;
        info.pCommandBuffers = &capture->commands;
        if (is_pending)
            // The previous run timed out: neither its fence nor its commands are free yet.
            wait_for_fence(limit_ns);
        check(vkResetFences(context->device, 1, &fence), "vkResetFences");
        check(vkQueueSubmit(context->queue, 1, &info, fence), "vkQueueSubmit");
        is_pending = true;
    }
    void wait(uint64_t limit_ns) {
        py::gil_scoped_release release_gil;
        wait_for_fence(limit_ns);
    }
    void wait_for_fence(uint64_t limit_ns) {
        VkResult result = vkWaitForFences(context->device, 1, &fence, VK_TRUE, limit_ns);
        is_pending = result == VK_TIMEOUT;
        check(result, "vkWaitForFences");
    }
};

void define_packing(py::module_& m);  // vkbackend/gguf/pack.cpp

PYBIND11_MODULE(_native, m) {
    m.doc() = "Vulkan objects that Kompute lacks; see native.cpp. Use vkbackend.device instead.";
    py::module_::import("kp");  // the base types below are kp's

    define_packing(m);

    static py::exception<VulkanError> error(m, "VulkanError");
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const VulkanError& e) {
            PyErr_SetObject(error.ptr(), py::make_tuple(e.what(), int(e.result)).ptr());
        }
    });

    py::class_<Context, std::shared_ptr<Context>>(m, "Context")
        .def(py::init<uintptr_t, uintptr_t, uintptr_t, uint32_t, py::bytes>())
        .def("cache_data", &Context::cache_data)
        .def("sequence", &Context::sequence);
    py::class_<Memory, std::shared_ptr<Memory>>(m, "Memory", py::buffer_protocol())
        .def(py::init<std::shared_ptr<Context>, uint64_t, uint32_t, std::vector<uint32_t>>())
        .def_readonly("size", &Memory::size)
        .def_readonly("flags", &Memory::flags)
        .def_property_readonly("is_mapped", [](const Memory& memory) { return memory.mapped != nullptr; })
        .def("make_pages", &Memory::make_pages, py::call_guard<py::gil_scoped_release>())
        .def_buffer([](Memory& memory) {
            if (!memory.mapped) throw std::invalid_argument("this memory is not visible to the host");
            return py::buffer_info(memory.mapped, 1, py::format_descriptor<uint8_t>::format(),
                                   py::ssize_t(memory.size));
        });
    py::class_<Kernel, std::shared_ptr<Kernel>>(m, "Kernel")
        .def(py::init<std::shared_ptr<Context>, py::bytes, std::vector<int>, uint32_t,
                      std::map<uint32_t, uint32_t>, uint32_t>());
    py::class_<Timestamps, std::shared_ptr<Timestamps>>(m, "Timestamps")
        .def(py::init<std::shared_ptr<Context>, uint32_t>())
        .def("read", &Timestamps::read);
    py::class_<OpDispatch, kp::OpBase, std::shared_ptr<OpDispatch>>(m, "OpDispatch")
        .def(py::init<std::shared_ptr<Kernel>, std::vector<Range>, std::array<uint32_t, 3>,
                      std::vector<uint32_t>>());
    py::class_<OpBarrier, kp::OpBase, std::shared_ptr<OpBarrier>>(m, "OpBarrier")
        .def(py::init<uint32_t, uint32_t, uint32_t, uint32_t>());
    py::class_<OpCopy, kp::OpBase, std::shared_ptr<OpCopy>>(m, "OpCopy")
        .def(py::init<std::shared_ptr<Memory>, uint64_t, std::shared_ptr<Memory>, uint64_t, uint64_t>());
    py::class_<OpTimestamp, kp::OpBase, std::shared_ptr<OpTimestamp>>(m, "OpTimestamp")
        .def(py::init<std::shared_ptr<Timestamps>, uint32_t>());
    py::class_<OpCapture, kp::OpBase, std::shared_ptr<OpCapture>>(m, "OpCapture").def(py::init<>());
    py::class_<Submission, std::shared_ptr<Submission>>(m, "Submission")
        .def(py::init<std::shared_ptr<Context>, std::shared_ptr<kp::Sequence>, std::shared_ptr<OpCapture>>())
        .def("submit", &Submission::submit)
        .def("wait", &Submission::wait);
}
