import Foundation
import OnnxRuntimeBindings

/// Runs the exported model: 8 x 8 grey values, 0 to 16, to one of ten digits.
public final class DigitClassifier {
    static let side = 8
    static let input = "input"
    static let output = "output"
    // Of the task's prepare: the model wants numbers about zero.
    static let mean: Float = 4.88
    static let deviation: Float = 6.02

    private let session: ORTSession

    public init() throws {
        guard let path = Bundle.module.path(forResource: "digits", ofType: "onnx") else {
            throw CocoaError(.fileNoSuchFile)
        }
        let environment = try ORTEnv(loggingLevel: .warning)
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: nil)
    }

    public func classify(_ pixels: [Float]) throws -> Int {
        precondition(pixels.count == Self.side * Self.side)
        let prepared = pixels.map { ($0 - Self.mean) / Self.deviation }
        let data = prepared.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
        let shape: [NSNumber] = [1, 1, NSNumber(value: Self.side), NSNumber(value: Self.side)]
        let value = try ORTValue(tensorData: data, elementType: .float, shape: shape)
        let results = try session.run(
            withInputs: [Self.input: value], outputNames: [Self.output], runOptions: nil)
        let scores = try results[Self.output]!.tensorData() as Data
        return scores.withUnsafeBytes { raw in
            let floats = raw.bindMemory(to: Float.self)
            return floats.indices.max { floats[$0] < floats[$1] }!
        }
    }
}
