// For a host that opens a plugin library and does nothing more, as Triton's TensorRT backend does: the library
// registers itself, where the environment asks for it.
//
//     MASK2EDGE_REGISTER_ON_LOAD=1 tritonserver --backend-config=tensorrt,plugins=/models/…/libmask2edge_tensorrt.so
#include <NvInferRuntime.h>
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

struct TensorRT {
    nvinfer1::IPluginRegistry* (*registry)() = nullptr;
    int32_t major = 0;
};

int collect_tensorrt(dl_phdr_info* object, size_t, void* names) {
    if (object->dlpi_name != nullptr && std::strstr(object->dlpi_name, "libnvinfer") != nullptr)
        static_cast<std::vector<std::string>*>(names)->emplace_back(object->dlpi_name);
    return 0;
}

// TensorRT is in the process already, under a name that depends on its version, and perhaps out of the global scope.
TensorRT find_tensorrt() {
    std::vector<std::string> names;
    dl_iterate_phdr(collect_tensorrt, &names);
    for (const std::string& name : names) {
        void* library = dlopen(name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
        if (library == nullptr) continue;
        TensorRT found;
        found.registry = reinterpret_cast<decltype(found.registry)>(dlsym(library, "getPluginRegistry"));
        const auto version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
        dlclose(library);  // whoever loaded it keeps it
        if (version != nullptr) found.major = version() / 10000;
        if (found.registry != nullptr) return found;
    }
    return {};
}

__attribute__((constructor)) void register_on_load() {
    const char* wish = std::getenv("MASK2EDGE_REGISTER_ON_LOAD");
    if (wish == nullptr || std::strcmp(wish, "1") != 0) return;
    const TensorRT tensorrt = find_tensorrt();
    Dl_info self{};
    if (tensorrt.registry == nullptr)
        std::fprintf(stderr, "mask2edge: MASK2EDGE_REGISTER_ON_LOAD=1, but no TensorRT is loaded in this process\n");
    else if (tensorrt.major != NV_TENSORRT_MAJOR)  // the registry's functions are in another order there
        std::fprintf(stderr, "mask2edge: TensorRT %d is loaded, and the plugins were compiled for %d: not registered\n",
                     tensorrt.major, NV_TENSORRT_MAJOR);
    else if (dladdr(reinterpret_cast<void*>(&register_on_load), &self) == 0 ||
             tensorrt.registry()->loadLibrary(self.dli_fname) == nullptr)
        std::fprintf(stderr, "mask2edge: TensorRT did not take the plugins; its log says more\n");
}

}  // namespace
