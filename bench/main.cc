// Registers the table of bench.h with Google Benchmark, and turns what a case counts into rates.
#include "bench.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

static void count(benchmark::State &state, const bench_case &c, double seconds, double ticks) {
    const double runs = static_cast<double>(state.iterations());
    if (c.flops > 0) {
        const double rate = runs * c.flops / seconds;
        state.counters["GFLOP/s"] = rate / 1e9;
        state.counters["%peak"] = 100 * rate / (bench_peak(c.row) * static_cast<double>(c.threads));
    }
    if (c.bytes > 0) {
        const double rate = runs * c.bytes / seconds;
        state.counters["GB/s"] = rate / 1e9;
        state.counters["%read"] = 100 * rate / bench_bandwidth(c.row, c.working_set);
    }
    const double traffic = c.traffic > 0 ? c.traffic : c.bytes;
    if (c.flops > 0 && traffic > 0) state.counters["flop/B"] = c.flops / traffic;
    for (size_t phase = 0; phase < bench_phase_count(); phase++) {
        const double share = 100 * bench_phase_ticks(phase) / ticks;
        if (share > 0) state.counters[std::string("%") + bench_phase_name(phase)] = share;
    }
    if (c.items > 0 && ticks > 0) state.counters[std::string("ticks/") + c.item] = ticks / (runs * c.items);
}

static void run(benchmark::State &state, const bench_case *c) {
    void *closure = nullptr;
    if (const char *why_not = c->setup(c, &closure)) {
        state.SkipWithError(why_not);
        return;
    }
    c->run(closure); // faults pages in
    bench_phases_reset();
    const double wall_start = bench_wall_seconds(), cpu_start = bench_cpu_seconds();
    const uint64_t ticks_start = bench_ticks();
    for (auto _ : state) c->run(closure);
    const double ticks = static_cast<double>(bench_ticks() - ticks_start);
    const double wall = bench_wall_seconds() - wall_start;
    const double seconds = c->threads == 1 ? bench_cpu_seconds() - cpu_start : wall;
    c->teardown(closure);
    count(state, *c, seconds, ticks / wall * seconds);
}

// Of repetitions: on a shared machine the least time and the highest rate say most.
static double least(const std::vector<double> &values) { return *std::min_element(values.begin(), values.end()); }

static double most(const std::vector<double> &values) { return *std::max_element(values.begin(), values.end()); }

int main(int argc, char **argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    for (size_t i = 0; i < bench_case_count(); i++) {
        const bench_case *c = bench_case_at(i);
        benchmark::RegisterBenchmark(c->name, run, c)
            ->Unit(benchmark::kMicrosecond)
            ->ComputeStatistics("min", least)
            ->ComputeStatistics("max", most);
    }
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return 0;
}
