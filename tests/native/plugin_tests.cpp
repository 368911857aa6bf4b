// The TensorRT plugins as TensorRT meets them, without TensorRT and without a GPU: what the library exports, creators
// and their attributes, copies, serialisation, messages. What depends on types and sizes is in plugin_call_tests.cpp,
// results are in plugin_execution_tests.cpp.
//
//     plugin_tests libmask2edge_tensorrt.so libmask2edge_plugins_executed.so
#include <dlfcn.h>

#include <cstdlib>

#include "plugin_testing.h"

namespace plugin_testing {

nvinfer1::IPluginCreatorV3One& Library::creator(const std::string& name) const {
    for (nvinfer1::IPluginCreatorV3One* creator : creators)
        if (name == creator->getPluginName()) return *creator;
    std::printf("expected a creator named %s, got none\n", name.c_str());
    std::exit(1);
}

namespace {

using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

const Fields kDeformable{{"num_heads", 8}, {"num_points", 4}};
const Fields kMasked{{"num_heads", 8}};

// As the registry does it: dlopen, then the symbols by name.
Library load(const char* path) {
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        std::printf("expected a library, got %s\n", dlerror());
        std::exit(1);
    }
    const auto symbol = [&](const char* name) {
        void* address = dlsym(handle, name);
        if (address == nullptr) {
            std::printf("expected the library to export %s\n", name);
            std::exit(1);
        }
        return address;
    };
    using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
    Library library;
    int32_t count = -1;
    nvinfer1::IPluginCreatorInterface* const* creators = reinterpret_cast<GetCreators>(symbol("getCreators"))(count);
    for (int32_t i = 0; i < count; ++i) {
        CHECK(std::string(creators[i]->getInterfaceInfo().kind) == "PLUGIN CREATOR_V3ONE");
        library.creators.push_back(static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]));
    }
    library.set_logger_finder = reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(symbol("setLoggerFinder"));
    library.op_version = reinterpret_cast<int32_t (*)()>(symbol("mask2edge_op_version"));
    return library;
}

void test_creators(const Library& library) {
    CHECK(library.creators.size() == 2);
    CHECK(library.op_version() == 1);
    for (nvinfer1::IPluginCreatorV3One* creator : library.creators) {
        CHECK(std::string(creator->getPluginVersion()) == "1");
        CHECK(std::string(creator->getPluginNamespace()) == "mask2edge");
        const nvinfer1::PluginFieldCollection& names = *creator->getFieldNames();
        for (int32_t i = 0; i < names.nbFields; ++i) {
            CHECK(names.fields[i].type == PluginFieldType::kINT32);
            CHECK(names.fields[i].length == 1);
        }
    }
    const auto* deformable = library.creator("MultiscaleDeformableAttention").getFieldNames();
    CHECK(deformable->nbFields == 2);
    CHECK(std::string(deformable->fields[0].name) == "num_heads");
    CHECK(std::string(deformable->fields[1].name) == "num_points");
    const auto* masked = library.creator("MaskedAttention").getFieldNames();
    CHECK(masked->nbFields == 1);
    CHECK(std::string(masked->fields[0].name) == "num_heads");
}

void test_refused_attributes(const Library& library, Logger& logger) {
    nvinfer1::IPluginCreatorV3One& creator = library.creator("MultiscaleDeformableAttention");
    const struct {
        Fields fields;
        const char* message;
    } cases[] = {
        {{}, "attribute num_heads is missing"},
        {{{"num_heads", 8}}, "attribute num_points is missing"},
        {{{"num_points", 4}}, "attribute num_heads is missing"},
        {{{"num_heads", 8}, {"num_points", 4}, {"num_heads", 8}}, "attribute num_heads is given twice"},
        {{{"num_heads", 8}, {"num_points", 4}, {"window", 1}}, "unknown attribute 'window'"},
        {{{"num_heads", 0}, {"num_points", 4}}, "attribute num_heads must be from 1 to 1024, got 0"},
        {{{"num_heads", -8}, {"num_points", 4}}, "attribute num_heads must be from 1 to 1024, got -8"},
        {{{"num_heads", 8}, {"num_points", 1025}}, "attribute num_points must be from 1 to 1024, got 1025"},
        {{{"num_heads", 8, PluginFieldType::kINT64}, {"num_points", 4}}, "attribute num_heads must be one int32"},
        {{{"num_heads", 8, PluginFieldType::kFLOAT32}, {"num_points", 4}}, "attribute num_heads must be one int32"},
        {{{"num_heads", 8}, {"num_points", 4, PluginFieldType::kINT32, 2}}, "attribute num_points must be one int32"},
        {{{"num_heads", 8}, {"num_points", 4, PluginFieldType::kINT32, 0}}, "attribute num_points must be one int32"},
        {{{"num_heads", 8}, {nullptr, 4}}, "unknown attribute ''"},
    };
    for (const auto& refused : cases)
        for (TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
            CHECK(creator.createPlugin("layer 7", refused.fields.get(), phase) == nullptr);
            CHECK(logger.severity() == nvinfer1::ILogger::Severity::kERROR);
            CHECK_SAID(logger, "MultiscaleDeformableAttention (layer layer 7): ", refused.message);
        }
    CHECK(creator.createPlugin(nullptr, nullptr, TensorRTPhase::kBUILD) == nullptr);
    CHECK_SAID(logger, "MultiscaleDeformableAttention: attribute num_heads is missing");
    const nvinfer1::PluginField without_data("num_heads", nullptr, PluginFieldType::kINT32, 1);
    const nvinfer1::PluginFieldCollection fields{1, &without_data};
    CHECK(library.creator("MaskedAttention").createPlugin("", &fields, TensorRTPhase::kBUILD) == nullptr);
    CHECK_SAID(logger, "MaskedAttention: attribute num_heads must be one int32");
}

std::string serialised(const Plugin& plugin) {
    std::string text;
    const nvinfer1::PluginFieldCollection& fields = *plugin.runtime()->getFieldsToSerialize();
    for (int32_t i = 0; i < fields.nbFields; ++i) {
        CHECK(fields.fields[i].type == PluginFieldType::kINT32 && fields.fields[i].length == 1);
        text += std::string(fields.fields[i].name) + "=" +
                std::to_string(*static_cast<const int32_t*>(fields.fields[i].data)) + ";";
    }
    return text;
}

void check_identity(const Plugin& plugin, const char* name, const std::string& attributes) {
    CHECK(plugin.object != nullptr);
    if (plugin.object == nullptr) return;
    CHECK(std::string(plugin.core()->getPluginName()) == name);
    CHECK(std::string(plugin.core()->getPluginVersion()) == "1");
    CHECK(std::string(plugin.core()->getPluginNamespace()) == "mask2edge");
    CHECK(plugin.build()->getNbOutputs() == 1);
    CHECK(plugin.build()->getNbTactics() == 0);
    CHECK(serialised(plugin) == attributes);
    CHECK(plugin.build()->getTimingCacheID() + std::string(";") == attributes);
    CHECK(std::string(plugin.core()->getInterfaceInfo().kind) == "PLUGIN_V3ONE_CORE");
    CHECK(std::string(plugin.build()->getInterfaceInfo().kind) == "PLUGIN_V3ONE_BUILD");
    CHECK(std::string(plugin.runtime()->getInterfaceInfo().kind) == "PLUGIN_V3ONE_RUNTIME");
    const auto unknown = static_cast<nvinfer1::PluginCapabilityType>(99);
    CHECK(plugin.object->getCapabilityInterface(unknown) == nullptr);
}

void test_copies(const Library& library, const char* name, const Fields& fields, const std::string& attributes) {
    nvinfer1::IPluginCreatorV3One& creator = library.creator(name);
    Plugin original(creator.createPlugin("layer", fields.get(), TensorRTPhase::kBUILD));
    check_identity(original, name, attributes);
    Plugin restored(creator.createPlugin("layer", original.runtime()->getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
    Plugin clone(original.object->clone());
    Plugin attached(clone.runtime()->attachToContext(nullptr));
    original.object.reset();  // copies own what they show
    clone.object.reset();
    check_identity(restored, name, attributes);
    check_identity(attached, name, attributes);
    CHECK(attached.object.get() != restored.object.get());
}

void test_where_messages_go(const Library& library, LoggerFinder& finder) {
    nvinfer1::IPluginCreatorV3One& creator = library.creator("MaskedAttention");
    for (LoggerFinder::Answer answer : {LoggerFinder::Answer::nothing, LoggerFinder::Answer::exception}) {
        finder.answer = answer;  // to stderr
        CHECK(creator.createPlugin("on stderr", nullptr, TensorRTPhase::kBUILD) == nullptr);
        CHECK(finder.logger.last().empty());
    }
    library.set_logger_finder(nullptr);
    CHECK(creator.createPlugin("on stderr", nullptr, TensorRTPhase::kBUILD) == nullptr);
    library.set_logger_finder(&finder);
    finder.answer = LoggerFinder::Answer::logger;
    CHECK(creator.createPlugin("", nullptr, TensorRTPhase::kBUILD) == nullptr);
    CHECK_SAID(finder.logger, "MaskedAttention: attribute num_heads is missing");
}

}  // namespace
}  // namespace plugin_testing

int main(int argc, char** argv) {
    using namespace plugin_testing;
    if (argc != 3) {
        std::printf("usage: plugin_tests libmask2edge_tensorrt.so libmask2edge_plugins_executed.so\n");
        return 2;
    }
    setenv("CUDA_VISIBLE_DEVICES", "", 1);  // launches fail in the same way on every machine
    const Library library = load(argv[1]);
    LoggerFinder finder;
    library.set_logger_finder(&finder);
    test_creators(library);
    test_refused_attributes(library, finder.logger);
    test_copies(library, "MultiscaleDeformableAttention", kDeformable, "num_heads=8;num_points=4;");
    test_copies(library, "MaskedAttention", kMasked, "num_heads=8;");
    test_where_messages_go(library, finder);
    test_calls(library, finder);
    test_execution(load(argv[2]));
    std::printf(g_failures == 0 ? "plugins: all as expected\n" : "plugins: %d failures\n", g_failures);
    return g_failures == 0 ? 0 : 1;
}
