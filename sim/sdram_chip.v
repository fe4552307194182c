// SPDX-License-Identifier: Apache-2.0
//
// A single-data-rate SDRAM of 16 bits, as its data sheet (MT48LC16M16A2, AS4C16M16SA, IS42S16160G) describes it; it knows nothing of any
// controller. No delays: everything happens at the rising edge of clk, nanoseconds are counted in cycles of CLOCK_HZ. A word that the data
// sheet calls valid at an edge is on dq_out from the edge before it on, and no longer than that edge.
//
// memory[{row, ba, column}]: with 13, 2 and 9 bits of these the index is byte address / 2 of a controller that maps them in this order.
//
// Each broken rule counts in violations; first_violation holds the code of the first:
//    1  a command other than NOP before POWER_UP_US, or with cke low     11  tRCD: READ or WRITE too early after ACTIVE
//    2  initialisation: PRECHARGE ALL, 2 REFRESH, LOAD MODE were not all 12  tRP: ACTIVE, REFRESH or LOAD MODE too early after PRECHARGE
//       done, or not in this order, before ACTIVE, READ or WRITE         13  tRC: ACTIVE too early after ACTIVE of the bank
//    3  READ or WRITE of a bank without an open row                      14  tRAS: PRECHARGE too early after ACTIVE
//    4  ACTIVE of a bank with an open row                                15  tRFC: a command too early after REFRESH
//    5  REFRESH or LOAD MODE with an open row                            16  tWR: PRECHARGE too early after the last word written
//    6  a mode that is reserved or not modelled                          17  tMRD: a command too early after LOAD MODE
//    7  a command that is not modelled: BURST TERMINATE, self-refresh,   18  tRRD: ACTIVE too early after ACTIVE of another bank
//       auto precharge, suspended clock                                  19  tREFI: no REFRESH for longer than that
//    8  both drive the data wires                                        20  tRAS: a row open for longer than its maximum
//    9  WRITE of a word that is not masked, and that nobody drives       21  CAS latency 2 above 100 MHz
//   10  dqm low before LOAD MODE
module sdram_chip #(
    parameter CLOCK_HZ = 60000000,
    parameter POWER_UP_US = 100,
    parameter ROW_BITS = 13,
    parameter BANK_BITS = 2,
    parameter COLUMN_BITS = 9,
    // Picoseconds
    parameter T_RCD = 20000,
    parameter T_RP = 20000,
    parameter T_RC = 66000,
    parameter T_RAS = 44000,
    parameter T_RAS_MAX = 100000000,
    parameter T_RFC = 66000,
    parameter T_WR = 15000,
    parameter T_RRD = 15000,
    parameter T_REFI = 7812500,
    // Cycles
    parameter WR_CYCLES = 2,
    parameter MRD_CYCLES = 2
) (
    input clk,
    input cke,
    input cs_n,
    input ras_n,
    input cas_n,
    input we_n,
    input [1:0] ba,
    input [12:0] a,
    input [1:0] dqm,
    input [15:0] dq_in,
    input dq_in_enable,
    output reg [15:0] dq_out,
    output reg [31:0] violations,
    output reg [7:0] first_violation
);
    localparam BANKS = 1 << BANK_BITS;
    localparam [63:0] PICO = 64'd1000000000000;

    // The fewest cycles that last so long; the most that last no longer.
    function [63:0] at_least(input [63:0] picoseconds);
        at_least = (picoseconds * CLOCK_HZ + PICO - 1) / PICO;
    endfunction
    function [63:0] at_most(input [63:0] picoseconds);
        at_most = (picoseconds * CLOCK_HZ) / PICO;
    endfunction

    localparam [63:0] POWER_UP = (64'd1 * POWER_UP_US * CLOCK_HZ + 999999) / 1000000;
    localparam [63:0] RCD = at_least(T_RCD);
    localparam [63:0] RP = at_least(T_RP);
    localparam [63:0] RC = at_least(T_RC);
    localparam [63:0] RAS = at_least(T_RAS);
    localparam [63:0] RAS_MAX = at_most(T_RAS_MAX);
    localparam [63:0] RFC = at_least(T_RFC);
    localparam [63:0] WR = at_least(T_WR) > WR_CYCLES ? at_least(T_WR) : WR_CYCLES;
    localparam [63:0] RRD = at_least(T_RRD);
    localparam [63:0] REFI = at_most(T_REFI);
    localparam [63:0] LONG_AGO = 64'd1 << 32;  // before the beginning

    reg [15:0] memory [0:(1 << (ROW_BITS + BANK_BITS + COLUMN_BITS)) - 1];

    reg [63:0] now;
    // Each bank: its row, and when it was last opened, closed and written
    reg [BANKS-1:0] is_open;
    reg [ROW_BITS-1:0] row [0:BANKS-1];
    reg [63:0] activated [0:BANKS-1];
    reg [63:0] precharged [0:BANKS-1];
    reg [63:0] written [0:BANKS-1];
    reg [63:0] last_active, refreshed, mode_set;
    // Initialisation
    reg all_precharged, mode_loaded;
    reg [7:0] refreshes;
    // Mode register
    reg [3:0] burst_length;
    reg [1:0] cas_latency;
    // The burst under way
    reg reading, writing;
    reg [3:0] index;
    reg [1:0] bank;
    reg [COLUMN_BITS-1:0] start, column;
    // From the array to the wires
    reg [16:0] read_now, read_before, read_earlier, on_wires;  // {there is one, word}
    reg driven;
    reg [1:0] mask;  // dqm of the edge before
    integer i;

    initial begin
        now = LONG_AGO;
        is_open = 0;
        last_active = 0;
        refreshed = 0;
        mode_set = 0;
        all_precharged = 0;
        mode_loaded = 0;
        refreshes = 0;
        burst_length = 1;
        cas_latency = 2;
        reading = 0;
        writing = 0;
        index = 0;
        bank = 0;
        start = 0;
        column = 0;
        read_now = 0;
        read_before = 0;
        read_earlier = 0;
        on_wires = 0;
        driven = 0;
        mask = 3;
        dq_out = 16'hBAD0;
        violations = 0;
        first_violation = 0;
        for (i = 0; i < BANKS; i = i + 1) begin
            row[i] = 0;
            activated[i] = 0;
            precharged[i] = 0;
            written[i] = 0;
        end
    end

    task broken(input [7:0] code);
        begin
            if (violations == 0) first_violation = code;
            violations = violations + 1;
        end
    endtask

    task check(input holds, input [7:0] code);
        if (!holds) broken(code);
    endtask

    // Common to REFRESH and LOAD MODE: all banks closed, and for long enough.
    task check_idle;
        begin
            check(is_open == 0, 5);
            for (i = 0; i < BANKS; i = i + 1) check(now - precharged[i] >= RP, 12);
        end
    endtask

    task close_bank(input [1:0] which);
        if (is_open[which]) begin
            check(now - activated[which] >= RAS, 14);
            check(now - activated[which] <= RAS_MAX, 20);
            check(now - written[which] >= WR, 16);
            is_open[which] = 0;
            precharged[which] = now;
            if (bank == which) begin
                reading = 0;
                writing = 0;
            end
        end
    endtask

    // Blocking assignments: one process, in the order of the data sheet's diagrams. Only dq_out waits, for whoever samples it at this edge.
    always @(posedge clk) begin
        now = now + 1;
        check(!(driven && dq_in_enable), 8);
        if (!mode_loaded) check(dqm == 3, 10);
        if (mode_loaded && now == refreshed + REFI + 1) broken(19);

        if (!cke) begin
            // Power-down; in the middle of a burst it would be a suspended clock.
            check(cs_n || {ras_n, cas_n, we_n} == 3'b111, 1);
            check(!reading && !writing, 7);
        end else if (!cs_n && {ras_n, cas_n, we_n} != 3'b111) begin
            check(now - LONG_AGO >= POWER_UP, 1);
            check(now - refreshed >= RFC, 15);
            check(now - mode_set >= MRD_CYCLES, 17);
            case ({ras_n, cas_n, we_n})
                3'b011: begin  // ACTIVE
                    check(mode_loaded && refreshes >= 2, 2);
                    check(!is_open[ba], 4);
                    check(now - precharged[ba] >= RP, 12);
                    check(now - activated[ba] >= RC, 13);
                    check(now - last_active >= RRD, 18);
                    is_open[ba] = 1;
                    row[ba] = a;
                    activated[ba] = now;
                    last_active = now;
                end
                3'b101, 3'b100: begin  // READ, WRITE
                    check(mode_loaded && refreshes >= 2, 2);
                    check(is_open[ba], 3);
                    check(now - activated[ba] >= RCD, 11);
                    check(!a[10], 7);
                    reading = we_n;
                    writing = !we_n;
                    index = 0;
                    bank = ba;
                    start = a;
                end
                3'b010: begin  // PRECHARGE
                    if (a[10]) begin
                        for (i = 0; i < BANKS; i = i + 1) begin
                            close_bank(i);
                            // Before the first one nobody knows what is open.
                            if (!all_precharged) precharged[i] = now;
                        end
                        all_precharged = 1;
                    end else close_bank(ba);
                end
                3'b001: begin  // REFRESH
                    check(all_precharged, 2);
                    check_idle;
                    refreshed = now;
                    if (refreshes != 255) refreshes = refreshes + 1;
                end
                3'b000: begin  // LOAD MODE
                    check(all_precharged, 2);
                    check_idle;
                    check(a[2:0] <= 3 && !a[3] && (a[6:4] == 2 || a[6:4] == 3) && a[12:7] == 0 && ba == 0, 6);
                    check(a[6:4] == 3 || CLOCK_HZ <= 100000000, 21);
                    burst_length = 1 << a[1:0];
                    cas_latency = a[5:4];
                    mode_loaded = 1;
                    mode_set = now;
                end
                default: broken(7);  // BURST TERMINATE
            endcase
        end

        // One word of the burst: into the array at once, out of it after the CAS latency. Bursts wrap within their length.
        read_earlier = read_before;
        read_before = read_now;
        read_now = 0;
        column = (start & ~(burst_length - 1)) | ((start + index) & (burst_length - 1));
        if (writing) begin
            check(dq_in_enable || dqm == 3, 9);
            if (!dqm[0]) memory[{row[bank], bank[BANK_BITS-1:0], column}][7:0] = dq_in[7:0];
            if (!dqm[1]) memory[{row[bank], bank[BANK_BITS-1:0], column}][15:8] = dq_in[15:8];
            written[bank] = now;
        end
        if (reading) read_now = {1'b1, memory[{row[bank], bank[BANK_BITS-1:0], column}]};
        if (reading || writing) begin
            index = index + 1;
            if (index == burst_length) begin
                reading = 0;
                writing = 0;
            end
        end

        // The word that will be valid at the next edge; dqm acts two edges after it was seen. Wires that nobody drives show rubbish.
        on_wires = cas_latency == 2 ? read_before : read_earlier;
        driven = on_wires[16] && mask != 3;
        dq_out[7:0] <= on_wires[16] && !mask[0] ? on_wires[7:0] : 8'hD0;
        dq_out[15:8] <= on_wires[16] && !mask[1] ? on_wires[15:8] : 8'hBA;
        mask = dqm;
    end
endmodule
